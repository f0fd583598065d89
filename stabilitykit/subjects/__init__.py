"""The function under test: a model with everything fixed but one embedding, and what it runs on."""
