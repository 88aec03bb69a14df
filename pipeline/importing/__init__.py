"""Videos made elsewhere: what a source lists, which of it is wanted, and what is missing."""
