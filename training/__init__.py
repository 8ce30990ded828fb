"""How the committed weights were made; nothing here is needed to use them."""
