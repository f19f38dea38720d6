"""The joint image-video autoencoder: pixels to latents and back, behind one facade."""
