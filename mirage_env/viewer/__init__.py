"""`mirage view`: a world in the browser, seen while it grows, and driven.

What happens (`Session`) is apart from what is shown (`Page`): a session knows no browser and can be used without one;
only `server.py`, `page.py`, `panel.py` and `scene.py` know viser.

    session.py  one world, commands in a row      page.py    keeps browsers up to date
    worlds.py   worlds as values, with history    panel.py   pictures, buttons, keys
    openings.py rooms, photographs, caches        scene.py   points and cameras in 3D
    moves.py    where keys and presets lead       server.py  the web server and its limits
    caches.py   the folder that saves go to       cloud.py   points and their colours
    options.py  the command's options             tiles.py   the picture beside the scene
"""
