"""The agent as a system service: installed, removed and looked at on the machine that it runs on.

``paths``        where everything lies, and whether a Debian package owns it
``system``       the commands of the system that are called, and their errors
``interpreter``  which Python the service runs on
``environment``  the service's own environment, copied from the one that runs or made from wheels
``files``        what is written where, and the configuration's first version
``lock``         one change at a time, and its orderly end when it is interrupted
``install``, ``uninstall``, ``state``   the three things to do
"""
