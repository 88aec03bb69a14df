"""A run for others: pairs as a folder for the Hugging Face Hub, with their provenance."""
