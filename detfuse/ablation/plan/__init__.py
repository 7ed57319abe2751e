"""What is compared: arms, what may differ between them, what is held equal; before anything runs."""
