"""Caption text: how BLIP reads it, and how a caption is edited into a hard negative."""
