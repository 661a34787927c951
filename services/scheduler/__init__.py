"""The alarm clock: holds tasks until they are due, and sends them on."""
