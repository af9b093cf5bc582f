"""Training: from candidates and rank lists to a student that ranks as its teacher does."""
