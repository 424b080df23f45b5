"""Django's system checks, of models, migrations and tables: a module for what each looks at."""
