-- A database of its own for the demo profile.
CREATE DATABASE demo OWNER creditmirror;
