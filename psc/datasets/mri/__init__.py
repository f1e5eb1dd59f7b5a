"""Brain MRI with tissue labels (IBSR, Section 4.2): NIfTI files, subjects, splits and patches."""
