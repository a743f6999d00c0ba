"""Text: where it comes from, how it is cleaned, split by document, tokenized and packed."""
