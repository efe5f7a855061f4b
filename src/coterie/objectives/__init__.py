"""What training minimises: pure functions and small modules."""
