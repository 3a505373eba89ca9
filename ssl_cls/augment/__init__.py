"""Views: what they are (view), which parameters each one draws (draw), and how pixels change (apply)."""
