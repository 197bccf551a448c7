"""The networks behind the Protocols of `interfaces`; the only core part that imports diffusers or transformers."""
