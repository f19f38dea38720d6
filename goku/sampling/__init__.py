"""From prompts to pictures: a trained transformer, the ODE, the autoencoder."""
