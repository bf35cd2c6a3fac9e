"""The built-in model: its world, its text, its tokenizer, its training and its evaluation."""
