"""A memory as programs call it, whichever protocol they speak: operations, what they return, and threads that run them."""
