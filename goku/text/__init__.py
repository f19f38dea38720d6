"""The text encoder: captions to embeddings, behind one facade."""
