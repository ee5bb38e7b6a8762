"""What is known of images beside their pixels."""
