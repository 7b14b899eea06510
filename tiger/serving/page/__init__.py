"""The web page's parts, their HTML and handlers of events; :mod:`tiger.serving.gradio_app` connects them."""
