"""What the stage scripts share: each module is a noun that names what it holds."""
