"""The literature's experiments again: its data, its protocol, and its figures beside ours."""
