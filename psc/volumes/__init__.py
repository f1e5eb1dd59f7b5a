"""What EM and MRI share: files of volumes, seeded patches, resampling, exact tiles."""
