"""Pictures of what happened: `token_heatmap` for a notebook, and one HTML file of a run or a study (`unisd report`)."""

from unisd.report.heatmap import HeatMap as HeatMap
from unisd.report.heatmap import token_heatmap as token_heatmap
