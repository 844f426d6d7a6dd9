"""The `videomar` command; one module for each panel of its help."""
