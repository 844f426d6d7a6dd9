"""What a result was made from: code, parameters, inputs, commit."""
