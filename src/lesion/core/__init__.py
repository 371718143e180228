"""What is talked about: the nouns of lesion, without torch and without drawing."""
