"""Memory methods behind one contract: one method, one folder. See ``protocol`` and ``registry``."""
