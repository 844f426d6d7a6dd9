{
  "videos": 1.0,
  "read": 0.0,
  "unreadable": 1.0,
  "clips_considered": 0.0,
  "clips": 0.0,
  "too_short": 0.0,
  "uncaptioned": 0.0,
  "seconds": 0.0245,
  "peak_memory_gb": 0.4482
}
