"""What systems do each in their own way, behind names that mean the same on all of them.

Nothing outside of this package (and of ``hardware.host``, for readings) names what one system alone has: a
module such as ``fcntl``, a user's number, a signal that Windows lacks. ``scripts/check_code.py`` holds that.

``clocks``       time since the machine started, with and without its sleep
``descriptors``  flags of open files, locks, space that is reserved, questions to devices
``directory``    a folder whose files are reached through it and not through its path
``machine_id``   what the system says tells this machine from another
``open_files``   how many files a process may have open
``owners``       users, and what permission bits say of them
``places``       folders that lie elsewhere on each system
``processes``    groups of processes, and a child that ends with its parent
``signals``      what asks a program to stop, or to read its configuration again
``sockets``      what a socket still has to send; sockets with a path for a name
"""
