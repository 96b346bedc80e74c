"""Reading files that nobody vouches for."""
