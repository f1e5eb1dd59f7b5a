"""From records to the paper's tables, figures and page."""
