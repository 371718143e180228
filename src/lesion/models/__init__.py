"""Loading a vision-language model, and what lesion must know of its family."""
