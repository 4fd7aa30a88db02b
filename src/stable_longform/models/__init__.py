"""The networks: autoencoder, diffusion transformer, text encoder, timing conditioner, discriminator."""
