"""What only the teacher sees, and how every view becomes token ids."""
