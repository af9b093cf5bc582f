"""The Hugging Face Hub: repositories up and down, model cards, and errors in one sentence."""
