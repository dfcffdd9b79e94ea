"""The lumbar-disc study."""
