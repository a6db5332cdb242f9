"""How a consortium comes together: keys made where they stay, a signed roster, TLS, what is missing."""
