"""The servers that are measured, a module each, with one function: ``serve(listener)``, which does not return."""
