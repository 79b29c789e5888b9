"""HTTP dialects: each translates its wire format to the core nouns and back."""
