"""The paper, regenerated: its tables from records, its figures from records and real modules."""
