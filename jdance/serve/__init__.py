"""A local web page that recognizes images, videos and the browser's camera."""
