"""Reports of trainings: one HTML file that says what was done and whether it worked."""
