"""What runs are told with: tables, curves and a conclusion in words."""
