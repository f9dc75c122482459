"""The pages of the example services, as people see them in Chromium."""
