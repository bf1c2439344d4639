"""Text from the web made safe to print."""


def visible(text: object) -> str:
    """What the web wrote without control characters, which must not reach a terminal; a fraction with 4 digits."""
    said = f"{text:.4f}" if isinstance(text, float) else str(text)
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in said)
