"""Full-ranking evaluation per user, with standard errors and cohorts."""
