"""`mirage view`: a world in the browser, seen while it grows, and driven.

What happens (`Session`) is apart from what is shown (`Page`): a session knows no browser and can be used without one;
only `server.py`, `page.py`, `panel.py`, `scene.py` and `points.py` know viser.

    session.py    one world, commands in a row        page.py    keeps browsers up to date
    worlds.py     worlds as values, with history      panel.py   pictures, buttons, keys
    previewing.py a chunk before it is remembered     tiles.py   the picture beside the scene
    openings.py   rooms, photographs, caches          scene.py   points and cameras in 3D
    moves.py      where keys and presets lead         points.py  the points in every browser
    caches.py     the folder that saves go to         motion.py  browsers that are slow
    options.py    the command's options               cloud.py   points and their colours
    snapshots.py  what a session shows of itself      server.py  the web server and its limits
"""
