"""What the next run would cost, before it is paid for: counted from the clips, timed by a short probe."""
