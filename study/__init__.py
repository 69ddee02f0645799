"""The MOS study: people rate pictures blindly (article, section 3.3)."""
