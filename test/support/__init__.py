"""Plain helpers that several test folders share; nothing here knows pytest."""
