"""The networks behind the Protocols of `mirage_env.interfaces`; the only part that imports diffusers or transformers."""
